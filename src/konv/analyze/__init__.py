"""What a convolution, or a network of them, costs and does: counted, measured, drawn."""
