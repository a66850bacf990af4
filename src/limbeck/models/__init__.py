"""Reference networks, builders for torchvision, timm and transformers, and reading and writing weights."""

from limbeck.models import cifar_resnet
from limbeck.models.build import timm, torchvision
from limbeck.models.cifar_resnet import *  # noqa: F403
from limbeck.models.conv_ctc import conv_ctc
from limbeck.models.create_model import create_model
from limbeck.models.detector import Detector, detector
from limbeck.models.encoder_unet import encoder_unet
from limbeck.models.mlp import mlp
from limbeck.models.pretrained_seq2seq import transformers_seq2seq
from limbeck.models.pretrained_text import transformers
from limbeck.models.sentence_encoder import sentence_encoder
from limbeck.models.sentence_transformer import sentence_transformer
from limbeck.models.seq2seq import seq2seq_transformer
from limbeck.models.small_cnn import small_cnn
from limbeck.models.small_vit import small_vit
from limbeck.models.speech_text_encoder import speech_text_encoder
from limbeck.models.speech_text_translator import speech_text_translator
from limbeck.models.text_encoder import text_encoder
from limbeck.models.unet import unet
from limbeck.models.vit_segmenter import vit_segmenter
from limbeck.models.weights import load_weights, save_weights

__all__ = [
    "Detector", "conv_ctc", "create_model", "detector", "encoder_unet", "load_weights", "mlp", "save_weights",
    "sentence_encoder", "sentence_transformer", "seq2seq_transformer", "small_cnn", "small_vit", "speech_text_encoder",
    "speech_text_translator", "text_encoder", "timm", "torchvision", "transformers",
    "transformers_seq2seq", "unet", "vit_segmenter",
]  # fmt: skip
__all__ += cifar_resnet.__all__
