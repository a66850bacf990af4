"""Helpers without knowledge of distillation: atomic writes, digests, timing, gathering over processes."""
