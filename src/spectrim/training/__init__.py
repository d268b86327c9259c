"""The loop behind the shell: data sources, recipes, training with checkpoints, the compress job."""
