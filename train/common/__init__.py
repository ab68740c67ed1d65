"""What the scripts share: data, steps, the loop, checkpoints, folders, the command line."""
