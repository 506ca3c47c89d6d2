"""Why models behave as they do: mutual information, parameter space, gradient conflict, theory."""
