"""What a policy knows of the models: running means and their confidence bounds."""
