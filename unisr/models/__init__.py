"""Methods: the scorer interface (`base`), shared blocks (`layers`, `pooling`, `losses`), a package per family."""
