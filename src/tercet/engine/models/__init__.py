"""Floor 1: the model store: names to folders in Hugging Face layout. Importable without torch."""
