#include "kernels/pool.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "simd/isa.h"

#if defined(ABRUZZI_X86)
#include <emmintrin.h>  // SSE2, which every x86-64 has
#endif

namespace abruzzi {
namespace {

constexpr int kSpins = 2000;  // some tens of microseconds

void pause() {
#if defined(ABRUZZI_X86)
  _mm_pause();
#endif
}

}  // namespace

struct Pool::Shared {
  std::atomic<std::uint64_t> round{0};
  std::atomic<std::size_t> next{0};
  std::atomic<std::size_t> busy{0};
  std::atomic<bool> stop{false};
  std::size_t jobs = 0;
  Call call = nullptr;
  const void* job = nullptr;
  std::mutex mutex;
  std::condition_variable wake;

  void work(std::size_t thread) {
    for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < jobs;) call(job, i, thread);
  }

  void live(std::size_t thread) {
    for (std::uint64_t seen = 0;; ++seen) {
      for (int i = 0; i < kSpins && round.load(std::memory_order_acquire) == seen && !stop; ++i) pause();
      if (round.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> hold(mutex);
        wake.wait(hold, [&] { return stop || round.load(std::memory_order_acquire) != seen; });
      }
      if (stop) return;
      work(thread);
      busy.fetch_sub(1, std::memory_order_release);
    }
  }
};

Pool::Pool(std::size_t threads) : process_(getpid()), shared_(new Shared) {
  for (std::size_t i = 1; i < threads; ++i) workers_.emplace_back([shared = shared_, i] { shared->live(i); });
}

Pool::~Pool() {
  if (forked()) {
    // The threads are not here, yet a condition variable waits for those who waited on it: leave it
    // to its memory.
    for (auto& worker : workers_) worker.detach();
    return;
  }
  {
    std::lock_guard<std::mutex> hold(shared_->mutex);
    shared_->stop = true;
  }
  shared_->wake.notify_all();
  for (auto& worker : workers_) worker.join();
  delete shared_;
}

bool Pool::forked() const { return static_cast<long>(getpid()) != process_; }

void Pool::start(std::size_t jobs, Call call, const void* job) {
  Shared& s = *shared_;
  s.jobs = jobs;
  s.call = call;
  s.job = job;
  s.next.store(0, std::memory_order_relaxed);
  s.busy.store(workers_.size(), std::memory_order_relaxed);
  {
    std::lock_guard<std::mutex> hold(s.mutex);
    s.round.fetch_add(1, std::memory_order_release);
  }
  s.wake.notify_all();
  s.work(0);
  for (int i = 0; s.busy.load(std::memory_order_acquire); ++i) {
    if (i < kSpins)
      pause();
    else
      std::this_thread::yield();
  }
}

}  // namespace abruzzi
