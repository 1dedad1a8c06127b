// The kernels of grouped-query attention, for tests and the self-test.
#include <algorithm>
#include <vector>

#include "bind/bind.h"
#include "kernels/step_kernels.h"
#include "simd/isa.h"

namespace {

using abruzzi::Isa;

// q [T, N, A]: the last T of `positions`, which lie in rows [slots, row] by their table. In parts of
// `segment` positions, put together as the step does it.
void gqa(int isa, In<float, 3> q, In<float, 2> rows, In<std::int32_t, 1> table, std::size_t block,
         std::size_t positions, std::size_t kv_heads, float scale, std::size_t segment, Out<float, 3> out) {
  const std::size_t tokens = q.shape(0), heads = q.shape(1), width = q.shape(2);
  fit(kv_heads > 0 && heads > 0 && width > 0 && heads % kv_heads == 0 && block > 0 && segment > 0 && tokens > 0, "gqa");
  const abruzzi::GqaShape s = abruzzi::gqa_shape(heads, kv_heads, width);
  bool good = rows.shape(1) == s.cache_row() && positions >= tokens && table.shape(0) * block >= positions &&
              out.shape(0) == tokens && out.shape(1) == heads && out.shape(2) == width;
  for (std::size_t i = 0; i < table.shape(0); ++i)
    good = good && table.data()[i] >= 0 && (static_cast<std::size_t>(table.data()[i]) + 1) * block <= rows.shape(0);
  fit(good, "gqa");
  nb::gil_scoped_release release;
  const auto& k = abruzzi::step_kernels(static_cast<Isa>(isa));
  const std::size_t each = heads / kv_heads, wide = s.width_pad, queries = tokens * each;
  const std::size_t parts = (positions + segment - 1) / segment;
  const std::size_t all = queries * kv_heads;
  std::vector<float> grouped(all * wide), scratch(queries * abruzzi::kPositions), merged(wide);
  std::vector<float> top(parts * all), sum(parts * all), u(parts * all * wide);
  const abruzzi::Latents where{rows.data(), s.cache_row(), table.data(), block};
  const auto at = [&](std::size_t m, std::size_t i) { return (i / each * heads + m * each + i % each) * width; };
  for (std::size_t m = 0; m < kv_heads; ++m)
    for (std::size_t i = 0; i < queries; ++i)
      std::copy_n(q.data() + at(m, i), width, grouped.data() + (m * queries + i) * wide);
  for (std::size_t p = 0; p < parts; ++p)
    k.gqa(s, 0, kv_heads, grouped.data(), queries * wide, tokens, positions - tokens, where, p * segment,
          std::min(positions, (p + 1) * segment), scale, scratch.data(), top.data() + p * all, sum.data() + p * all,
          u.data() + p * all * wide);
  for (std::size_t m = 0; m < kv_heads; ++m)
    for (std::size_t i = 0; i < queries; ++i) {
      const std::size_t row = m * queries + i;
      k.gqa_merge(wide, parts, all, top.data() + row, sum.data() + row, u.data() + row * wide, merged.data());
      std::copy_n(merged.data(), width, out.data() + at(m, i));
    }
}

}  // namespace

void bind_gqa(nb::module_& m) {
  m.def("gqa", &gqa, nb::arg("isa"), nb::arg("q").noconvert(), nb::arg("rows").noconvert(),
        nb::arg("table").noconvert(), nb::arg("block_tokens"), nb::arg("positions"), nb::arg("kv_heads"),
        nb::arg("scale"), nb::arg("segment"), nb::arg("out").noconvert());
}
