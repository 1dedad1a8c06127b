#include "train/document_attention.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <numeric>
#include <vector>

#include "kernels/pool.h"
#include "simd/isa.h"

namespace abruzzi {

namespace {

// Threads and their memory, kept from call to call: a training step makes many, from one thread.
struct Workplace {
  explicit Workplace(std::size_t threads) : pool(threads), memory(threads) {}
  Pool pool;
  std::vector<std::vector<unsigned char>> memory;
};

// Work is one document and head. The longest documents first, so that no thread ends with one of
// them.
template <class Work>
void each(const DocumentAttention& g, std::size_t threads, const Work& work) {
  static std::mutex one_at_a_time;
  static std::unique_ptr<Workplace> kept;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  if (!kept || kept->pool.threads() != threads) kept = std::make_unique<Workplace>(threads);
  const auto length = [&](std::size_t d) { return g.edges[d + 1] - g.edges[d]; };
  std::vector<std::size_t> order(g.documents);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return length(a) > length(b); });
  const std::size_t longest = order.empty() ? 0 : static_cast<std::size_t>(length(order.front()));
  const std::size_t bytes = document_arena(g, longest) + 64;
  for (auto& memory : kept->memory)
    if (memory.size() < bytes) memory.resize(bytes);
  kept->pool.run(g.documents * g.heads, [&](std::size_t number, std::size_t thread) {
    unsigned char* memory = kept->memory[thread].data();
    memory += (64 - reinterpret_cast<std::uintptr_t>(memory) % 64) % 64;
    work(order[number / g.heads], number % g.heads, memory);
  });
}

}  // namespace

bool can_attend_documents() {
#if defined(ABRUZZI_X86)
  __builtin_cpu_init();
  return built_for_bf16() && best_isa() == Isa::avx512_vnni && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

void attend_documents(const DocumentAttention& given, std::size_t threads, Bf16* o, float* log_sum, float* largest) {
  each(given, threads, [&](std::size_t document, std::size_t head, void* memory) {
    attend_document(given, document, head, memory, o, log_sum, largest);
  });
}

void attend_documents_backward(const DocumentAttention& given, std::size_t threads, const Bf16* o, const float* log_sum,
                               const Bf16* d_o, Bf16* dq, Bf16* dkv, float* dk_pe) {
  each(given, threads, [&](std::size_t document, std::size_t head, void* memory) {
    attend_document_backward(given, document, head, memory, o, log_sum, d_o, dq, dkv, dk_pe);
  });
}

}  // namespace abruzzi
