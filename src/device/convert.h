// Values of one element type into another: the processor's part of Stream::convert().
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace baton::device {

// To the nearest value of `to_type`, ties to even; float8 e4m3 has scale 1 and saturates at +-448. Each array lies on a
// boundary of its values; they do not overlap. The types are kF32, kBF16 or kF8E4M3, checked.
void convert_values(const std::byte* from, tensor::DType from_type, std::byte* to, tensor::DType to_type,
                    uint64_t values);

}  // namespace baton::device
