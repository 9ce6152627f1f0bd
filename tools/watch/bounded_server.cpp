#include "tools/watch/bounded_server.h"

#ifdef SINKSCOPE_HTTPLIB_STREAMS

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>

namespace sinkscope {
namespace {

using Clock = std::chrono::steady_clock;

class BoundedStream final : public httplib::Stream {
 public:
  BoundedStream(socket_t socket, const RequestLimits& limits)
      : socket_(socket), bytes_left_(limits.bytes), read_end_(Clock::now() + limits.to_come), limits_(limits) {}

  bool is_readable() const override { return begin_ < end_ || wait(POLLIN, read_end_); }
  bool is_writable() const override { return wait(POLLOUT, write_end()); }

  ssize_t read(char* data, size_t size) override {
    if (begin_ == end_) {
      if (bytes_left_ == 0 || !wait(POLLIN, read_end_)) return -1;
      const std::size_t most = std::min(buffer_.size(), bytes_left_);
      const ssize_t count = retried([&] { return recv(socket_, buffer_.data(), most, 0); });
      if (count <= 0) return count;
      begin_ = 0;
      end_ = static_cast<std::size_t>(count);
      bytes_left_ -= end_;
    }
    const std::size_t count = std::min(size, end_ - begin_);
    std::copy_n(buffer_.data() + begin_, count, data);
    begin_ += count;
    return static_cast<ssize_t>(count);
  }

  ssize_t write(const char* data, size_t size) override {
    if (!wait(POLLOUT, write_end())) return -1;
    return retried([&] { return send(socket_, data, size, MSG_NOSIGNAL); });
  }

  // Who asks makes no difference to the answer.
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return socket_; }

 private:
  template <class Call>
  static ssize_t retried(const Call& call) {
    while (true) {
      const ssize_t result = call();
      if (result >= 0 || errno != EINTR) return result;
    }
  }

  bool wait(short event, Clock::time_point end) const {
    while (true) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now());
      if (left.count() <= 0) return false;
      pollfd ready{socket_, event, 0};
      const int result = poll(&ready, 1, static_cast<int>(left.count()));
      if (result > 0) return true;
      if (result < 0 && errno != EINTR) return false;
    }
  }

  /// From the first byte of the answer on.
  Clock::time_point write_end() const {
    if (write_end_ == Clock::time_point{}) write_end_ = Clock::now() + limits_.to_leave;
    return write_end_;
  }

  socket_t socket_;
  std::size_t bytes_left_;
  Clock::time_point read_end_;
  mutable Clock::time_point write_end_{};
  RequestLimits limits_;
  std::array<char, 4096> buffer_{};
  std::size_t begin_ = 0, end_ = 0;  // of what is read and not taken yet
};

}  // namespace

bool BoundedServer::process_and_close_socket(socket_t socket) {
  BoundedStream stream(socket, limits_);
  bool closed = false;
  const bool answered = process_request(stream, true, closed, nullptr);
  shutdown(socket, SHUT_RDWR);
  close(socket);
  return answered;
}

}  // namespace sinkscope

#endif
