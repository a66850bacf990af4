"""Two plain PyTorch networks of a user package.

``own_model.yaml`` names them ``own_networks:Teacher`` and ``own_networks:Student`` and lists ``own_networks`` under
``plugins``. The arguments ``classes`` and ``channels`` of a model, where it has them, are set from the data.
"""

from torch import nn


class Teacher(nn.Module):
    """Two convolutions and global average pooling."""

    def __init__(self, classes: int, channels: int = 1, width: int = 32):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        maps = nn.functional.max_pool2d(self.stem(images), 2)
        return self.head(self.body(maps).mean(dim=(2, 3)))


class Student(nn.Module):
    """As the teacher, narrower and at half the resolution."""

    def __init__(self, classes: int, channels: int = 1, width: int = 12):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        )  # fmt: skip
        self.classify = nn.Linear(width, classes)

    def forward(self, images):
        return self.classify(self.features(images).mean(dim=(2, 3)))
