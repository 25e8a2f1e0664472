"""Importers and exporters, one small module a format."""
