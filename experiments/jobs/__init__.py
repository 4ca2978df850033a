"""Who simulates what, and when: runner, queue, checkpoints, launchers."""
