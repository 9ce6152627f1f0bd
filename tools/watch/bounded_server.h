// An HTTP server that no connection can hold for long, nor fill.
#pragma once

#include <httplib.h>

#include <chrono>
#include <cstddef>

namespace sinkscope {

struct RequestLimits {
  std::chrono::seconds to_come{5};     // for a whole request to come in
  std::chrono::seconds to_leave{30};   // for its whole answer to be taken
  std::size_t bytes = 32 << 10;        // of a request
};

#ifdef SINKSCOPE_HTTPLIB_STREAMS

/// The library limits the length of a header line and the time between two bytes; of a client that sends lines without
/// end, a byte now and then, it would take them all. Here each connection is one request, bounded as a whole.
class BoundedServer final : public httplib::Server {
 public:
  explicit BoundedServer(const RequestLimits& limits) : limits_(limits) {}

 private:
  bool process_and_close_socket(socket_t socket) override;

  RequestLimits limits_;
};

#else

/// Of a library whose streams are others: it sets its own limits.
class BoundedServer final : public httplib::Server {
 public:
  explicit BoundedServer(const RequestLimits& limits) {
    set_keep_alive_max_count(1);  // a connection that waits would hold one of the threads
    set_read_timeout(limits.to_come);
    set_write_timeout(limits.to_come);
  }
};

#endif

}  // namespace sinkscope
