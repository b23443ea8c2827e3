"""Drop-in replacements for other packages, each under the name of the package it stands in for."""
