r"""Steps of many runs at the speed of the processor, for any model that says what one run does.

A processor's vector registers hold several numbers, its *lanes*, and work on all of them at once.
`descend` gives each run a lane. A model takes part by stating its step once, in plain Python, as if
there were one run, and how it reads its weights:

* The step is a function marked `on_lanes`, in terms of what the model reads: it returns the loss
  and writes the gradient. It may use + - * /, `max` and `where`, `math.exp`, `math.log`, `math.log1p`
  and `math.expm1`, loops and arrays, and functions of its own that are marked likewise. Called from
  Python it does what it says for one run; compiled by Numba, the same text takes as many as a
  register holds.
* A `Read` for each weight says by which columns the model reads it, and through which matrix. All
  that is linear is then the engine's: the product with that matrix, the step in the columns, the
  way back to the weights.
* The model's ``on_lanes(weights, problem, train)`` puts both together as a `Step`, or returns None
  where it has none; then, and where Numba does not run, `descend` takes the steps in torch. To
  choose, it is shown the first eight runs at most.

The files: `_surface` is what a model needs; `_register` makes a vector register a type of Numba;
`_stretch` takes a stretch of steps in one compiled call; `_groups` lays the arrays out. The guide
for contributors has an example; :doc:`/runtimes` says what it brings.
"""

from ._surface import Read, Step, labels, on_lanes, where

__all__ = ["Read", "Step", "labels", "on_lanes", "where"]
