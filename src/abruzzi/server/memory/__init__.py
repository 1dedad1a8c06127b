"""Conversation memory: sampled turns put back into a client's history (store, seals, restoring)."""
