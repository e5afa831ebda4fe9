// Rows of float32, bfloat16 and float8 e4m3 into each other.
#pragma once

#include <cstdint>

namespace baton::kernels {

// Rounds as to_bf16 does.
void bf16_from_floats(const float* x, int64_t count, uint16_t* out);
void floats_from_bf16(const uint16_t* x, int64_t count, float* out);
// The two in a row.
void round_to_bf16(const float* x, int64_t count, float* out);
// Rounds as to_f8e4m3 does.
void f8_from_floats(const float* x, int64_t count, uint8_t* out);
void floats_from_f8(const uint8_t* x, int64_t count, float* out);
void bf16_from_f8(const uint8_t* x, int64_t count, uint16_t* out);
// out[i] = low[i] | high[i] << 16; high may be null (zero).
void interleave_bf16(const uint16_t* low, const uint16_t* high, int64_t count, uint32_t* out);

}  // namespace baton::kernels
