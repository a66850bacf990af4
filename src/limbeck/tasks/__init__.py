"""Tasks define what a batch means: how to call the network, its rows, targets and metrics."""

from limbeck.tasks.classification import Classification
from limbeck.tasks.detection import Detection
from limbeck.tasks.segmentation import Segmentation
from limbeck.tasks.speech import SpeechCTC
from limbeck.tasks.text import TextClassification

__all__ = ["Classification", "Detection", "Segmentation", "SpeechCTC", "TextClassification"]
