"""Types and small policies that every room speaks: outputs, exchanges, progress, schedules. Imports torch only."""
