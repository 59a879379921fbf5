"""How our pages look: one small design, light and dark, that loads nothing from anywhere. Pure: values in, HTML out."""
