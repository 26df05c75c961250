"""The encode stage of whole deployments: several encoders, the embedding cache, right answers."""
