"""Floor 1: tokenisers, chat templates, incremental detokenising. No torch, no transformers."""
