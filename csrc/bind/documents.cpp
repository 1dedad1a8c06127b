// Attention within documents, forward and backward.
#include "bind/bind.h"
#include "train/document_attention.h"

namespace {

// What both passes over documents are given; shapes as train/document_attention.h has them.
abruzzi::DocumentAttention documents(In<std::int64_t, 1> edges, In<std::uint16_t, 3> q, In<std::uint16_t, 3> kv,
                                     In<std::uint16_t, 2> k_pe, In<float, 2> cos, In<float, 2> sin, float scale) {
  const std::size_t tokens = q.shape(0), heads = q.shape(1), rope = k_pe.shape(1);
  fit(edges.shape(0) >= 1 && kv.shape(0) == tokens && kv.shape(1) == heads && k_pe.shape(0) == tokens &&
          q.shape(2) >= rope && kv.shape(2) > q.shape(2) - rope && q.shape(2) % 2 == 0 && rope % 2 == 0 &&
          kv.shape(2) % 2 == 0 && cos.shape(0) == tokens && cos.shape(1) == rope / 2 && sin.shape(0) == tokens &&
          sin.shape(1) == rope / 2 && edges.data()[0] == 0 &&
          edges.data()[edges.shape(0) - 1] == static_cast<std::int64_t>(tokens),
      "documents");
  for (std::size_t d = 1; d < edges.shape(0); ++d) fit(edges.data()[d] > edges.data()[d - 1], "documents");
  const std::size_t nope = q.shape(2) - rope;
  return {edges.data(), edges.shape(0) - 1, heads,     nope,        rope,       kv.shape(2) - nope,
          scale,        q.data(),           kv.data(), k_pe.data(), cos.data(), sin.data()};
}

}  // namespace

void bind_documents(nb::module_& m) {
  m.def("can_attend_documents", &abruzzi::can_attend_documents);
  m.def(
      "attend_documents",
      [](std::size_t threads, In<std::int64_t, 1> edges, In<std::uint16_t, 3> q, In<std::uint16_t, 3> kv,
         In<std::uint16_t, 2> k_pe, In<float, 2> cos, In<float, 2> sin, float scale, Out<std::uint16_t, 3> o,
         Out<float, 2> log_sum, Out<float, 2> largest) {
        const auto given = documents(edges, q, kv, k_pe, cos, sin, scale);
        fit(o.shape(0) == q.shape(0) && o.shape(1) == given.heads && o.shape(2) == given.value &&
                log_sum.shape(0) == q.shape(0) && log_sum.shape(1) == given.heads && largest.shape(0) == q.shape(0) &&
                largest.shape(1) == given.heads,
            "attend_documents");
        nb::gil_scoped_release release;
        abruzzi::attend_documents(given, threads, o.data(), log_sum.data(), largest.data());
      },
      nb::arg("threads"), nb::arg("edges").noconvert(), nb::arg("q").noconvert(), nb::arg("kv").noconvert(),
      nb::arg("k_pe").noconvert(), nb::arg("cos").noconvert(), nb::arg("sin").noconvert(), nb::arg("scale"),
      nb::arg("o").noconvert(), nb::arg("log_sum").noconvert(), nb::arg("largest").noconvert());
  m.def(
      "attend_documents_backward",
      [](std::size_t threads, In<std::int64_t, 1> edges, In<std::uint16_t, 3> q, In<std::uint16_t, 3> kv,
         In<std::uint16_t, 2> k_pe, In<float, 2> cos, In<float, 2> sin, float scale, In<std::uint16_t, 3> o,
         In<float, 2> log_sum, In<std::uint16_t, 3> d_o, Out<std::uint16_t, 3> dq, Out<std::uint16_t, 3> dkv,
         Out<float, 3> dk_pe) {
        const auto given = documents(edges, q, kv, k_pe, cos, sin, scale);
        for (std::size_t axis = 0; axis < 3; ++axis)
          fit(dq.shape(axis) == q.shape(axis) && dkv.shape(axis) == kv.shape(axis) && d_o.shape(axis) == o.shape(axis),
              "attend_documents_backward");
        fit(o.shape(0) == q.shape(0) && o.shape(1) == given.heads && o.shape(2) == given.value &&
                log_sum.shape(0) == q.shape(0) && log_sum.shape(1) == given.heads && dk_pe.shape(0) == q.shape(0) &&
                dk_pe.shape(1) == given.heads && dk_pe.shape(2) == given.rope,
            "attend_documents_backward");
        nb::gil_scoped_release release;
        abruzzi::attend_documents_backward(given, threads, o.data(), log_sum.data(), d_o.data(), dq.data(), dkv.data(),
                                           dk_pe.data());
      },
      nb::arg("threads"), nb::arg("edges").noconvert(), nb::arg("q").noconvert(), nb::arg("kv").noconvert(),
      nb::arg("k_pe").noconvert(), nb::arg("cos").noconvert(), nb::arg("sin").noconvert(), nb::arg("scale"),
      nb::arg("o").noconvert(), nb::arg("log_sum").noconvert(), nb::arg("d_o").noconvert(), nb::arg("dq").noconvert(),
      nb::arg("dkv").noconvert(), nb::arg("dk_pe").noconvert());
}
