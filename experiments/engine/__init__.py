"""The simulation on the device: rounds, runs, batches. Nothing here touches the disk."""
