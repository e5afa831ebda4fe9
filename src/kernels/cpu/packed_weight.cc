#include "kernels/cpu/packed_weight.h"

#include <cstring>
#include <map>
#include <mutex>

#include "base/check.h"
#include "kernels/cpu/convert.h"

namespace baton::kernels {
namespace {

constexpr int64_t kPanelMax = 64;
constexpr int64_t kSquare = 64;  // units of depth that are packed at a time

std::atomic<uint64_t> bytes_read{0}, bytes_held{0};

// Every packed weight with an identity. Never destroyed, as weights may end after main().
struct Shelf {
  std::mutex mutex;
  std::map<std::string, std::weak_ptr<PackedWeight>> weights;
};
Shelf& shelf() {
  static auto* one = new Shelf;
  return *one;
}

// At most 2 kSquare values of one row as it is stored.
void read_row(const tensor::StoredMatrix& m, int64_t row, int64_t col, int64_t count, float* out) {
  m.read(row, col, count, out);
}
void read_row(const tensor::StoredMatrix& m, int64_t row, int64_t col, int64_t count, uint16_t* out) {
  if (m.dtype == tensor::DType::kBF16) {
    std::memcpy(out, m.data + (row * m.stride + col) * 2, static_cast<size_t>(count) * 2);
  } else {
    float values[2 * kSquare];
    m.read(row, col, count, values);
    bf16_from_floats(values, count, out);
  }
}

}  // namespace

WeightBytes weight_bytes() { return {bytes_read.load(), bytes_held.load()}; }

PackedWeight::PackedWeight(const tensor::MatrixSlice& slice, Compute compute)
    : n_(slice.rows()), k_(slice.cols()), compute_(compute), blocking_(product_blocking()) {
  BATON_CHECK(n_ >= 1 && k_ >= 1, "weight of n {} k {}", n_, k_);
}

PackedWeight::~PackedWeight() {
  bytes_held -= buffer_.size();
  if (key_.empty()) return;
  std::lock_guard lock(shelf().mutex);
  // Another may stand there by now.
  const auto at = shelf().weights.find(key_);
  if (at != shelf().weights.end() && at->second.expired()) shelf().weights.erase(at);
}

std::shared_ptr<const PackedWeight> PackedWeight::of(const tensor::MatrixSlice& slice, Compute compute) {
  auto weight = std::make_shared<PackedWeight>(slice, compute);
  if (!slice.identity.empty()) {
    weight->key_ = fmt::format("{} {} {}", static_cast<int>(compute), slice.transposed, slice.identity);
    std::lock_guard lock(shelf().mutex);
    std::weak_ptr<PackedWeight>& place = shelf().weights[weight->key_];
    if (auto there = place.lock()) {
      weight->key_.clear();
      return there;
    }
    place = weight;
  }
  weight->pack(slice);
  return weight;
}

void PackedWeight::pack(const tensor::MatrixSlice& slice) {
  const tensor::StoredMatrix m = slice.stored();
  const int64_t columns = (panels() - 1) * blocking_.columns + panel_width(panels() - 1);
  buffer_ = tensor::AlignedBuffer::unwritten(static_cast<size_t>(columns) * static_cast<size_t>(depth()) * 4);
  const auto part = [&](int at, int parts) {
    for (int64_t panel = panels() * at / parts; panel < panels() * (at + 1) / parts; ++panel)
      compute_ == Compute::kBF16 ? pack_panel<uint16_t>(m, slice.transposed, panel)
                                 : pack_panel<float>(m, slice.transposed, panel);
  };
  n_* k_ < kInlineWork ? part(0, 1) : on_gemm_threads(part);
  bytes_read += static_cast<uint64_t>(m.rows) * static_cast<uint64_t>(m.cols) * tensor::dtype_size(m.dtype);
  bytes_held += buffer_.size();
  packed_.store(true, std::memory_order_release);
  packed_.notify_all();
}

// By squares of the panel that stay in the first cache while rows become columns.
template <typename Value>
void PackedWeight::pack_panel(const tensor::StoredMatrix& m, bool transposed, int64_t panel) {
  constexpr int64_t kPerUnit = 4 / sizeof(Value);
  Value square[kPanelMax][kSquare * kPerUnit] = {};
  Value line[kPanelMax];
  const int64_t width = panel_width(panel), first = panel * blocking_.columns, valid = std::min(width, n_ - first);
  auto* out = reinterpret_cast<uint32_t*>(buffer_.data()) + first * depth();
  for (int64_t begin = 0; begin < depth(); begin += kSquare) {
    const int64_t units = std::min(kSquare, depth() - begin), from = begin * kPerUnit;
    const int64_t values = std::min(units * kPerUnit, k_ - from);
    if (transposed) {
      for (int64_t i = 0; i < values; ++i) {
        read_row(m, from + i, first, valid, line);
        for (int64_t c = 0; c < valid; ++c) square[c][i] = line[c];
      }
    } else {
      for (int64_t c = 0; c < valid; ++c) read_row(m, first + c, from, values, square[c]);
    }
    if (values < units * kPerUnit)  // the high half of an odd k's last pair
      for (int64_t c = 0; c < valid; ++c) square[c][values] = 0;
    for (int64_t i = 0; i < units; ++i, out += width)
      for (int64_t c = 0; c < width; ++c) std::memcpy(&out[c], &square[c][i * kPerUnit], sizeof(uint32_t));
  }
}

}  // namespace baton::kernels
