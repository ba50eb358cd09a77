"""Our rule and order of victims inside the public code bases of Continuum, imported where they are present."""
