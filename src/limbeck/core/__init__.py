"""Shared types: outputs, loss context, progress, schedules, protocols, errors. Imports torch only."""
