"""A vector register as a type of Numba: one number of each of several runs as one value.

Nothing here knows of attention, or of descent. `Lanes` has + - * /, `max` and `where`, `math.exp`,
`math.log`, `math.log1p` and `math.expm1`; an array whose last axis fills a register becomes an array
of lanes by `as_lanes`, and is indexed as if that axis were not there. A `Tile` is what a matrix
product holds in registers: the same column of `ROWS` rows.
"""

import math
import operator
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.core.typeconv import Conversion
from numba.core.typing.templates import AbstractTemplate, ConcreteTemplate, infer_global, signature
from numba.extending import (
    intrinsic,
    lower_builtin,
    lower_cast,
    models,
    overload,
    register_model,
)

from ._surface import where

#: A product and a sum may become one instruction, and 0 and -0 are the same.
FLAGS = ("contract", "nsz")


def _features() -> set[str]:
    """What the processor can do that Numba compiles for; its cache asks the same."""
    *_, features = cpu_target.target_context.codegen().magic_tuple()
    return set(features.split(","))


#: Bytes in a register.
REGISTER = 64 if "+avx512f" in _features() else 32 if "+avx" in _features() else 16
#: Rows of a matrix product that are summed at once: twice as many sums, of two columns, stay in
#: registers, of which there are 32 or, with AVX alone, 16.
ROWS = 4 if REGISTER == 32 else 8


def width(dtype) -> int:
    """How many numbers of this type a register holds."""
    return REGISTER // np.dtype(dtype).itemsize


# -- the types ------------------------------------------------------------------------------------


class Lanes(types.Type):
    """As many numbers as a register holds; a number beside them counts for all of them."""

    def __init__(self, scalar):
        self.scalar, self.count = scalar, width(scalar.name)
        super().__init__(f"Lanes({self.count} x {scalar})")

    def unify(self, typing, other):
        return self if isinstance(other, types.Number) else None

    def can_convert_from(self, typing, other):
        return Conversion.unsafe if isinstance(other, types.Number) else None


class LanesArray(types.Type):
    """An array of `Lanes`: a pointer, and how far it is from one index to the next."""

    def __init__(self, scalar, ndim):
        self.scalar, self.ndim = scalar, ndim
        super().__init__(f"LanesArray({scalar}, {ndim})")


class Tile(types.Type):
    """`ROWS` registers."""

    def __init__(self, lanes):
        self.lanes = lanes
        super().__init__(f"Tile({lanes})")


LANES = {scalar: Lanes(scalar) for scalar in (types.float64, types.float32)}


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, of):
        super().__init__(manager, of, ir.VectorType(manager[of.scalar].get_value_type(), of.count))


@register_model(LanesArray)
class _LanesArrayModel(models.StructModel):
    def __init__(self, manager, of):
        members = [
            ("data", types.CPointer(of.scalar)),
            ("strides", types.UniTuple(types.intp, of.ndim)),
        ]
        super().__init__(manager, of, members)


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager, of):
        super().__init__(manager, of, ir.ArrayType(manager[of.lanes].get_value_type(), ROWS))


# -- arithmetic -----------------------------------------------------------------------------------


def _splat(builder, vector, number):
    some = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.IntType(32)(0))
    first = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(some, some, first)


@lower_cast(types.Number, Lanes)
def _spread(context, builder, number, lanes, value):
    value = context.cast(builder, value, number, lanes.scalar)
    return _splat(builder, context.get_value_type(lanes), value)


def _both(lower):
    """An implementation whose operands are all lanes, from one whose may be numbers."""

    def build(context, builder, sig, args):
        kind = sig.return_type
        cast = [context.cast(builder, x, of, kind) for x, of in zip(args, sig.args, strict=True)]
        return lower(builder, *cast)

    return build


def _operation(symbol, lower, operands=2):
    """Let lanes, and lanes with numbers, have an operation."""
    lanes = [[kind] * operands for kind in LANES.values()]
    for kind in LANES.values() if operands == 2 else ():
        for number in (types.float64, types.float32, types.int64):
            lanes += [[kind, number], [number, kind]]

    @infer_global(symbol)
    class Template(ConcreteTemplate):
        cases = [signature(next(k for k in args if isinstance(k, Lanes)), *args) for args in lanes]

    for args in lanes:
        lower_builtin(symbol, *args)(_both(lower))


def _instruction(name):
    return lambda builder, *args: getattr(builder, name)(*args, flags=FLAGS)


for _name, _code in (("add", "fadd"), ("sub", "fsub"), ("mul", "fmul"), ("truediv", "fdiv")):
    _operation(getattr(operator, _name), _instruction(_code))
    _operation(getattr(operator, "i" + _name), _instruction(_code))
_operation(operator.neg, lambda builder, x: builder.fneg(x), operands=1)
_operation(max, lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), b, a))


@overload(where)
def _where(x, yes, no):
    if isinstance(x, Lanes):
        return lambda x, yes, no: _choose(x, yes, no)
    return where


@intrinsic
def _choose(typing, x, yes, no):
    def build(context, builder, sig, args):
        kinds = zip(args, sig.args, strict=True)
        positive, *both = (context.cast(builder, value, kind, x) for value, kind in kinds)
        zero = ir.Constant(positive.type, [0.0] * x.count)
        return builder.select(builder.fcmp_ordered(">", positive, zero), *both)

    return signature(x, x, yes, no), build


# -- functions ------------------------------------------------------------------------------------


class _Digits(NamedTuple):
    """What `exp` and `log` need to know of one type.

    mantissa : bits after the point.
    least, most : below the one e^x is less than the smallest normal number, above the other infinite.
    high, low : log 2 in two parts, of which a whole number times the first is exact.
    exp_terms, log_terms : how many terms their series have.
    """

    mantissa: int
    least: float
    most: float
    high: float
    low: float
    exp_terms: int
    log_terms: int

    @property
    def round(self) -> float:
        """Added to a number, it leaves a whole one in the last bits."""
        return 1.5 * 2.0**self.mantissa


_DIGITS = {
    "float64": _Digits(
        52, -708.0, 709.782712893384, 0.693147180369123816490, 1.90821492927058770002e-10, 14, 9
    ),
    "float32": _Digits(23, -87.0, 88.72283, 0.693145751953125, 1.42860682030941723212e-6, 8, 4),
}


class _Writer:
    """Instructions on all lanes at once, for what is made of many of them."""

    def __init__(self, builder, lanes):
        self.builder, self.of = builder, _DIGITS[lanes.scalar.name]
        self.count, self.dtype = lanes.count, np.dtype(lanes.scalar.name)
        self.bits = ir.VectorType(ir.IntType(lanes.scalar.bitwidth), lanes.count)
        scalar = ir.DoubleType() if lanes.scalar.bitwidth == 64 else ir.FloatType()
        self.numbers = ir.VectorType(scalar, lanes.count)

    def number(self, value):
        return ir.Constant(self.numbers, [float(value)] * self.count)

    def whole(self, value):
        return self.bits([int(value)] * self.count)

    def bits_of(self, value):
        """The bits of a constant as a whole number."""
        return self.whole(np.array(value, self.dtype).view(f"i{self.dtype.itemsize}"))

    def add(self, a, b):
        return self.builder.fadd(a, b, flags=FLAGS)

    def sub(self, a, b):
        return self.builder.fsub(a, b, flags=FLAGS)

    def mul(self, a, b):
        return self.builder.fmul(a, b, flags=FLAGS)

    def div(self, a, b):
        return self.builder.fdiv(a, b, flags=FLAGS)

    def where(self, a, relation, b, yes, no):
        """yes where a <relation> b, else no."""
        return self.builder.select(self.builder.fcmp_ordered(relation, a, b), yes, no)

    def series(self, coefficients, x):
        """c_0 + c_1 x + c_2 x^2 + ..."""
        *others, total = map(self.number, coefficients)
        for coefficient in reversed(others):
            total = self.add(self.mul(total, x), coefficient)
        return total


def _exp(builder, x, lanes):
    """e^x = 2^k e^r with |r| <= log(2) / 2, to within one unit in the last place."""
    w = _Writer(builder, lanes)
    of = w.of
    shifted = w.add(w.mul(x, w.number(1 / math.log(2))), w.number(of.round))
    k = w.sub(shifted, w.number(of.round))
    r = w.add(w.mul(k, w.number(-of.low)), w.add(w.mul(k, w.number(-of.high)), x))
    power = w.series([1 / math.factorial(i) for i in range(of.exp_terms)], r)
    # 2^k goes into the exponent's bits
    k = builder.shl(builder.bitcast(shifted, w.bits), w.whole(of.mantissa))
    power = builder.bitcast(builder.add(builder.bitcast(power, w.bits), k), x.type)
    power = w.where(x, "<", w.number(of.least), w.number(0), power)
    power = w.where(x, ">", w.number(of.most), w.number(math.inf), power)
    return w.where(x, "ord", x, power, x)


def _log(builder, x, lanes):
    """log x = k log 2 + log(1 + f) with 1 + f = x / 2^k between sqrt(1/2) and sqrt(2).

    With s = f / (2 + f) it is log(1 + f) = 2 artanh s = f - s (f - 2 s^2 / 3 - 2 s^4 / 5 - ...): the
    first term is exact. Within one unit in the last place; minus infinity where x is below the
    smallest normal number.
    """
    w = _Writer(builder, lanes)
    of, least = w.of, w.number(np.finfo(w.dtype).tiny)
    bits, half = builder.bitcast(x, w.bits), w.bits_of(math.sqrt(0.5))
    k = builder.ashr(builder.sub(bits, half), w.whole(of.mantissa))
    rest = builder.sub(bits, builder.shl(k, w.whole(of.mantissa)))
    f = w.sub(builder.bitcast(rest, x.type), w.number(1))
    shifted = builder.bitcast(builder.add(k, w.bits_of(of.round)), x.type)
    k = w.sub(shifted, w.number(of.round))
    s = w.div(f, w.add(w.number(2), f))
    s2 = w.mul(s, s)
    tail = w.mul(s2, w.series([2 / (2 * i + 3) for i in range(of.log_terms)], s2))
    inner = w.sub(w.mul(s, w.sub(f, tail)), w.mul(k, w.number(of.low)))
    value = w.add(w.mul(k, w.number(of.high)), w.sub(f, inner))
    value = w.where(x, "<", least, w.number(-math.inf), value)
    value = w.where(x, "<", w.number(0), w.number(math.nan), value)
    return w.where(x, "<", w.number(math.inf), value, x)


def _log1p(builder, x, lanes):
    """log(1 + x) as x log(u) / (u - 1), u being what is left of 1 + x: what it lost cancels."""
    w = _Writer(builder, lanes)
    u = w.add(w.number(1), x)
    beyond = w.sub(u, w.number(1))
    value = w.div(w.mul(_log(builder, u, lanes), x), beyond)
    value = w.where(beyond, "==", w.number(0), x, value)
    return w.where(u, "<", w.number(math.inf), value, u)


def _expm1(builder, x, lanes):
    """e^x - 1 as x (u - 1) / log(u), u being what is left of e^x."""
    w = _Writer(builder, lanes)
    u = _exp(builder, x, lanes)
    beyond = w.sub(u, w.number(1))
    value = w.div(w.mul(beyond, x), _log(builder, u, lanes))
    value = w.where(beyond, "==", w.number(0), x, value)
    value = w.where(beyond, "==", w.number(-1), w.number(-1), value)
    return w.where(u, "<", w.number(math.inf), value, u)


def _function(symbol, lower):
    """Let lanes have a function of the module `math`."""

    @infer_global(symbol)
    class Template(ConcreteTemplate):
        cases = [signature(kind, kind) for kind in LANES.values()]

    for kind in LANES.values():
        lower_builtin(symbol, kind)(
            lambda context, builder, sig, args: lower(builder, args[0], sig.return_type)
        )


for _symbol, _lower in (
    (math.exp, _exp),
    (math.log, _log),
    (math.log1p, _log1p),
    (math.expm1, _expm1),
):
    _function(_symbol, _lower)


# -- arrays ---------------------------------------------------------------------------------------


def _as_lanes(context, builder, of, to, value):
    source = context.make_array(of)(context, builder, value)
    size = context.get_constant(types.intp, of.dtype.bitwidth // 8)
    steps = cgutils.unpack_tuple(builder, source.strides, of.ndim)[:-1]
    out = cgutils.create_struct_proxy(to)(context, builder)
    out.data = source.data
    out.strides = cgutils.pack_array(builder, [builder.sdiv(step, size) for step in steps])
    return out._getvalue()


@intrinsic
def as_lanes(typing, array):
    """An array of numbers (..., lanes), contiguous, as an array of lanes (...)."""
    kind = LanesArray(array.dtype, array.ndim - 1)

    def build(context, builder, sig, args):
        return _as_lanes(context, builder, array, kind, args[0])

    return signature(kind, array), build


class ByRun(NamedTuple):
    """What differs between runs: (groups, ..., lanes)."""

    array: np.ndarray


def of_group(value, g):
    """What the runs of a group have of a value: all of it, unless it is `ByRun`."""
    return value.array[g] if isinstance(value, ByRun) else value


@overload(of_group)
def _of_group(value, g):
    if getattr(value, "instance_class", None) is ByRun:
        return lambda value, g: as_lanes(value.array)[g]
    return lambda value, g: value


def all_of_group(values, g):
    """The same for each of a tuple."""
    return tuple(of_group(value, g) for value in values)


@overload(all_of_group)
def _all_of_group(values, g):
    if len(values) == 0:
        return lambda values, g: ()
    return lambda values, g: (of_group(values[0], g), *all_of_group(values[1:], g))


@intrinsic
def all_as_lanes(typing, arrays):
    """A tuple of arrays of numbers as one of arrays of lanes."""
    kinds = types.Tuple([LanesArray(array.dtype, array.ndim - 1) for array in arrays])

    def build(context, builder, sig, args):
        each = zip(arrays, kinds, cgutils.unpack_tuple(builder, args[0]), strict=True)
        return context.make_tuple(builder, kinds, [_as_lanes(context, builder, *x) for x in each])

    return signature(kinds, arrays), build


@intrinsic
def split(typing, array, places):
    """The arrays x[place:], for each of the places."""
    kinds = types.UniTuple(array, len(places))

    def build(context, builder, sig, args):
        parts = []
        for place in cgutils.unpack_tuple(builder, args[1]):
            part = cgutils.create_struct_proxy(array)(context, builder, args[0])
            stride = cgutils.unpack_tuple(builder, part.strides)[0]
            part.data = builder.gep(part.data, [builder.mul(place, stride)])
            parts.append(part._getvalue())
        return context.make_tuple(builder, kinds, parts)

    return signature(kinds, array, places), build


def _indices(index):
    return list(index) if isinstance(index, types.BaseTuple) else [index]


def _element(kind, index):
    """What an index gives: lanes, or an array of what is left of the axes."""
    if isinstance(index, types.SliceType):
        return kind
    left = kind.ndim - len(_indices(index))
    return LanesArray(kind.scalar, left) if left else LANES[kind.scalar]


@infer_global(operator.getitem)
class _Get(AbstractTemplate):
    def generic(self, args, kws):
        array, index = args
        if isinstance(array, LanesArray):
            return signature(_element(array, index), array, index)


@infer_global(operator.setitem)
class _Set(AbstractTemplate):
    def generic(self, args, kws):
        array, index, _ = args
        if isinstance(array, LanesArray) and isinstance(_element(array, index), Lanes):
            return signature(types.none, array, index, LANES[array.scalar])


def _locate(context, builder, kind, value, index_kind, index):
    """The address of an element, and the strides of the axes behind its index."""
    source = cgutils.create_struct_proxy(kind)(context, builder, value)
    *strides, _ = cgutils.unpack_tuple(builder, source.strides, kind.ndim)
    strides.append(context.get_constant(types.intp, LANES[kind.scalar].count))
    if isinstance(index_kind, types.SliceType):  # x[first:]
        first = cgutils.create_struct_proxy(index_kind)(context, builder, index).start
        return builder.gep(source.data, [builder.mul(first, strides[0])]), strides
    one = not isinstance(index_kind, types.BaseTuple)
    at = [index] if one else cgutils.unpack_tuple(builder, index, len(index_kind))
    offset = ir.Constant(strides[0].type, 0)
    for i, of, stride in zip(at, _indices(index_kind), strides, strict=False):
        i = context.cast(builder, i, of, types.intp)
        offset = builder.add(offset, builder.mul(i, stride, flags=["nsw"]), flags=["nsw"])
    return builder.gep(source.data, [offset], inbounds=True), strides[len(at) :]


@lower_builtin(operator.getitem, LanesArray, types.Any)
def _get(context, builder, sig, args):
    kind, index = sig.args
    at, strides = _locate(context, builder, kind, args[0], index, args[1])
    if isinstance(sig.return_type, Lanes):
        vector = context.get_value_type(sig.return_type).as_pointer()
        return builder.load(builder.bitcast(at, vector), align=kind.scalar.bitwidth // 8)
    out = cgutils.create_struct_proxy(sig.return_type)(context, builder)
    out.data, out.strides = at, cgutils.pack_array(builder, strides)
    return out._getvalue()


@lower_builtin(operator.setitem, LanesArray, types.Any, types.Any)
def _set(context, builder, sig, args):
    kind, index, value = sig.args
    at, _ = _locate(context, builder, kind, args[0], index, args[1])
    value = context.cast(builder, args[2], value, LANES[kind.scalar])
    vector = value.type.as_pointer()
    builder.store(value, builder.bitcast(at, vector), align=kind.scalar.bitwidth // 8)
    return context.get_dummy_value()


# -- what a matrix product holds in registers -------------------------------------------------------


@intrinsic
def load_tile(typing, array, row):
    """The lanes of `ROWS` rows of an array (rows)."""
    kind = Tile(LANES[array.scalar])

    def build(context, builder, sig, args):
        at, _ = _locate(context, builder, array, args[0], row, args[1])
        at = builder.bitcast(at, context.get_value_type(kind).as_pointer())
        return builder.load(at, align=array.scalar.bitwidth // 8)

    return signature(kind, array, row), build


@intrinsic
def store_tile(typing, array, row, tile):
    """array[row : row + ROWS] = tile"""

    def build(context, builder, sig, args):
        at, _ = _locate(context, builder, array, args[0], row, args[1])
        at = builder.bitcast(at, args[2].type.as_pointer())
        builder.store(args[2], at, align=array.scalar.bitwidth // 8)
        return context.get_dummy_value()

    return signature(types.none, array, row, tile), build


@intrinsic
def empty_tile(typing, array):
    """Zeros."""
    kind = Tile(LANES[array.scalar])

    def build(context, builder, sig, args):
        return ir.Constant(context.get_value_type(kind), None)

    return signature(kind, array), build


@intrinsic
def add_multiples(typing, tile, matrix, index, lanes):
    """tile + the outer product of the `ROWS` numbers matrix[index] and the lanes.

    Of an array of lanes these are `ROWS` lanes, so that each run has a matrix of its own.
    """
    by_run = isinstance(matrix, LanesArray)

    def build(context, builder, sig, args):
        out, array, at, value = args
        if by_run:
            first, _ = _locate(context, builder, matrix, array, index, at)
            first = builder.bitcast(first, out.type.as_pointer())
            rows = builder.load(first, align=matrix.scalar.bitwidth // 8)
        else:
            source = context.make_array(matrix)(context, builder, array)
            at = [*cgutils.unpack_tuple(builder, at, len(index)), ir.IntType(64)(0)]
            first = cgutils.get_item_pointer(context, builder, matrix, source, at, wraparound=False)
        for k in range(ROWS):
            if by_run:
                factor = builder.extract_value(rows, k)
            else:
                number = builder.load(builder.gep(first, [ir.IntType(32)(k)]))
                factor = _splat(builder, value.type, number)
            product = builder.fmul(factor, value, flags=FLAGS)
            row = builder.fadd(builder.extract_value(out, k), product, flags=FLAGS)
            out = builder.insert_value(out, row, k)
        return out

    return signature(tile, tile, matrix, index, lanes), build
