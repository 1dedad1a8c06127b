// Threads that live as long as the model and share out numbered jobs.
//
// A worker spins for a moment when it has nothing to do, because the next stage of a step is
// microseconds away, and then sleeps. Which thread runs which job is left to chance; results must
// not depend on it, and do not.
#pragma once

#include <cstddef>
#include <thread>
#include <vector>

namespace abruzzi {

class Pool {
 public:
  // threads: the caller's own included, so 1 starts none.
  explicit Pool(std::size_t threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  std::size_t threads() const { return workers_.size() + 1; }

  // job(number, thread) for every number below `jobs`; returns when all are done. Jobs do not
  // throw. One caller at a time.
  template <class Job>
  void run(std::size_t jobs, const Job& job) {
    if (jobs <= 1 || workers_.empty() || forked()) {
      for (std::size_t i = 0; i < jobs; ++i) job(i, 0);
      return;
    }
    start(
        jobs, [](const void* job, std::size_t i, std::size_t thread) { (*static_cast<const Job*>(job))(i, thread); },
        &job);
  }

 private:
  using Call = void (*)(const void*, std::size_t, std::size_t);
  struct Shared;  // what the threads see of each other

  void start(std::size_t jobs, Call call, const void* job);
  bool forked() const;  // threads do not follow their process into a child

  long process_;
  Shared* shared_;
  std::vector<std::thread> workers_;
};

}  // namespace abruzzi
