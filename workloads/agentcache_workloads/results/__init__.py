"""The published tables: one configuration a figure, rows that are kept, and a page that is made from them alone."""
