"""Weight formats of whole models, recognised by their keys and converted on load."""
