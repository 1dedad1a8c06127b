#include "bind/bind.h"
#include "simd/isa.h"

NB_MODULE(_ext, m) {
  // A server's thread may still hold a model when the interpreter ends; its memory goes with the
  // process.
  nb::set_leak_warnings(false);
  bind_packed(m);
  bind_ops(m);
  bind_mla(m);
  bind_gqa(m);
  bind_model(m);
  bind_documents(m);
  m.def("best_isa", [] { return static_cast<int>(abruzzi::best_isa()); });
}
