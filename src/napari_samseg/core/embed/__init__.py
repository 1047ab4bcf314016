"""Encode all planes of a stack into a store, in bounded memory, to be resumed."""
