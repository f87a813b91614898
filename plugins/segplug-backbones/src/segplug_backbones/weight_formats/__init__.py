"""How others lay out the weights of our backbones; recognised by their keys and converted on load."""
