"""The vision tower and projector of smollm2-vision: pictures, captions, training, export, evaluation."""
