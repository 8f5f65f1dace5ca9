"""The command `paystorm`: one module a command, each with `register(app)`; `main` puts them together."""
