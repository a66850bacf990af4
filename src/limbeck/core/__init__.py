"""Types and small policies that every room speaks: outputs, contexts, progress, schedules. Imports torch only."""
