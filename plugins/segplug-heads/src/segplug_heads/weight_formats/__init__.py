"""How others lay out the weights of whole models; recognised by their keys and converted on load."""
