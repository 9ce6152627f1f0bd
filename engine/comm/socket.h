// TCP between the ranks of a run: whole messages over sockets, each with a time by which it must be done.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace sinkscope {

/// Whether only programs of this machine reach an address: 127.0.0.0/8, ::1 or localhost.
bool is_loopback(const std::string& address);

using Deadline = std::chrono::steady_clock::time_point;

/// A connection, closed with the object. Messages are a kind and text of any bytes, at most 16 MiB.
class Socket {
 public:
  struct Message {
    char kind = 0;
    std::string text;
  };

  Socket() = default;
  explicit Socket(int file) : file_(file) {}
  ~Socket() { close(); }
  Socket(Socket&& other) noexcept : file_(std::exchange(other.file_, -1)), kept_(std::move(other.kept_)) {}
  Socket& operator=(Socket&& other) noexcept;

  explicit operator bool() const { return file_ >= 0; }
  int file() const { return file_; }
  void close() noexcept;

  /// False when the other side is gone or does not take it by then.
  bool send(const Message& message, Deadline deadline) noexcept;
  enum class Received : std::uint8_t { message, late, gone };
  /// The next whole message; what is not whole by then is kept for the next call.
  Received receive(Message& message, Deadline deadline);

 private:
  int file_ = -1;
  std::string kept_;  // bytes of a message that is not whole yet
};

/// Listens for the other ranks.
class Listener {
 public:
  /// At a port, or at one that is free (0). `address` is a name or number of this host; empty: all of them. Throws
  /// std::runtime_error naming address and port.
  Listener(const std::string& address, int port);
  int port() const { return port_; }
  std::optional<Socket> accept(Deadline deadline);

 private:
  Socket socket_;
  int port_ = 0;
};

/// Tries the addresses in turn until one answers. Nothing when none does by then; `why` is told the last reason.
std::optional<Socket> connect_to(const std::vector<std::string>& addresses, int port, Deadline deadline,
                                 std::string& why);

/// The numeric addresses of this host's interfaces that are up, the loopback ones last.
std::vector<std::string> host_addresses();
std::string host_name();

}  // namespace sinkscope
