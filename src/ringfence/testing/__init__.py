"""Fakes for tests of code that uses ringfence: public, and held to the same rules as the rest."""
