"""One runnable file per task: `python -m rnnfast.examples.NAME`."""
