"""PyTorch: konv behind modules and models."""
