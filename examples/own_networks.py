"""Two networks that know nothing of limbeck, as a package of your own might hold them.

``own_model.yaml`` names them ``own_networks:Teacher`` and ``own_networks:Student`` and lists ``own_networks`` under
``plugins``. A builder that has ``classes`` or ``channels`` among its arguments gets them from the data.
"""

from torch import nn


class Teacher(nn.Module):
    """Two convolutions and the mean over the picture."""

    def __init__(self, classes: int, channels: int = 1, width: int = 32):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, classes)

    def forward(self, pictures):
        maps = nn.functional.max_pool2d(self.stem(pictures), 2)
        return self.head(self.body(maps).mean(dim=(2, 3)))


class Student(nn.Module):
    """The same idea, narrower and at half the size."""

    def __init__(self, classes: int, channels: int = 1, width: int = 12):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        )  # fmt: skip
        self.classify = nn.Linear(width, classes)

    def forward(self, pictures):
        return self.classify(self.features(pictures).mean(dim=(2, 3)))
