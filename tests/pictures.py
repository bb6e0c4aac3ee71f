"""Helpers for tests of pictures: an asymmetric landscape, and the pixels of figures."""

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

BOX = ((-3.0, 3.0), (-1.0, 2.0))
"""A rectangle that no exchange of its axes leaves alone."""


def bowl(x1, x2, *, n=61, m=41, box=BOX, depth=1.0):
    """Energies with one minimum, 7 at ``(x1, x2)``; the first index runs along the first axis."""
    points = torch.cartesian_prod(torch.linspace(*box[0], n), torch.linspace(*box[1], m))
    return 7 + depth * ((points - torch.tensor([x1, x2])) ** 2).sum(1).reshape(n, m)


def drawn(figure):
    """The figure's pixels, without its alpha."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]


def darkest(axes, pixels, *, tolerance=12):
    """Return the centre of the pixels of viridis' darkest colour, in data coordinates."""
    dark = np.argwhere(
        (abs(pixels.astype(int) - np.array(mpl.colormaps["viridis"](0, bytes=True)[:3])) < tolerance).all(2)
    )
    window = axes.get_window_extent()
    dark = dark[(dark[:, 1] < window.x1) & (dark[:, 1] > window.x0)]
    row, column = dark.mean(0)
    # Pixels are counted from the top, and their centres are half a pixel further.
    return axes.transData.inverted().transform((column + 0.5, len(pixels) - row - 0.5))


def colour_at(axes, pixels, x1, x2):
    """The colour of the pixel at a point of the axes."""
    column, row = axes.transData.transform((x1, x2))
    return pixels[len(pixels) - 1 - int(row), int(column)]
