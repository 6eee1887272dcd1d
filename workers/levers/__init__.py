"""Levers of feedback: fitted on verdicts, applied to the rows of a job. Plain functions of texts
and verdicts, but for `acting`, `bench` and `store`, which know the database and the disk."""
