"""Manifests of the development data."""
