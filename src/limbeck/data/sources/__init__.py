"""Public data sets, and folders of images, with masks or boxes too.

A source is a frozen dataclass with ``load(seed=…)``.
"""

from limbeck.data.image_files import IMG_EXTENSIONS
from limbeck.data.sources.cifar import CIFAR10, CIFAR100
from limbeck.data.sources.cityscapes import Cityscapes
from limbeck.data.sources.coco_detection import CocoDetection
from limbeck.data.sources.digits import Digits
from limbeck.data.sources.fashion_mnist import FashionMNIST
from limbeck.data.sources.image_folder import ImageFolder
from limbeck.data.sources.multilingual_sentences import MultilingualSentences
from limbeck.data.sources.parallel_text import ParallelText
from limbeck.data.sources.segmentation_folder import SegmentationFolder
from limbeck.data.sources.speech_folder import SpeechFolder
from limbeck.data.sources.speech_text_pairs import SpeechTextPairs
from limbeck.data.sources.spoken_digits import SpokenDigits
from limbeck.data.sources.text_files import TextFiles
from limbeck.data.sources.voc_detection import VOCDetection
from limbeck.data.sources.voc_segmentation import VOCSegmentation

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "IMG_EXTENSIONS",
    "Cityscapes",
    "CocoDetection",
    "Digits",
    "FashionMNIST",
    "ImageFolder",
    "MultilingualSentences",
    "ParallelText",
    "SegmentationFolder",
    "SpeechFolder",
    "SpeechTextPairs",
    "SpokenDigits",
    "TextFiles",
    "VOCDetection",
    "VOCSegmentation",
]
