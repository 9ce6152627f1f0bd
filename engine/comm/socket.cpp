#include "engine/comm/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <thread>
#include <utility>

namespace sinkscope {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kMostBytes = std::uint32_t{16} << 20;

/// Whether `file` is ready for `events` by then.
bool ready(int file, short events, Deadline deadline) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd entry{.fd = file, .events = events, .revents = 0};
    const int found = poll(&entry, 1, static_cast<int>(std::clamp<long long>(left, 0, 1000)));
    if (found > 0) return true;
    if (found < 0 && errno != EINTR) return true;  // the call that follows tells why
    if (found == 0 && left <= 1000) return false;
  }
}

struct AddressesDeleter {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, AddressesDeleter>;

/// What a name stands for; null with the reason when nothing.
Addresses resolve(const std::string& name, int port, bool listens, std::string& why) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = listens ? AI_PASSIVE : 0;
  addrinfo* list = nullptr;
  const int status = getaddrinfo(name.empty() ? nullptr : name.c_str(), std::to_string(port).c_str(), &hints, &list);
  if (status != 0) why = gai_strerror(status);
  return Addresses(status == 0 ? list : nullptr);
}

Socket try_connect(const addrinfo& address, Deadline deadline, std::string& why) {
  Socket socket(::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) {
    why = std::strerror(errno);
    return {};
  }
  int error = connect(socket.file(), address.ai_addr, address.ai_addrlen) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    if (!ready(socket.file(), POLLOUT, std::min(deadline, Clock::now() + std::chrono::seconds(3)))) {
      why = "no answer";
      return {};
    }
    socklen_t size = sizeof error;
    getsockopt(socket.file(), SOL_SOCKET, SO_ERROR, &error, &size);
  }
  if (error != 0) {
    why = std::strerror(error);
    return {};
  }
  const int on = 1;
  setsockopt(socket.file(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return socket;
}

}  // namespace

bool is_loopback(const std::string& address) {
  in_addr number{};  // in network order
  if (inet_aton(address.c_str(), &number) != 0) return ntohl(number.s_addr) >> 24 == 127;
  return address == "localhost" || address == "::1";
}

Socket& Socket::operator=(Socket&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(kept_, other.kept_);
  return *this;
}

void Socket::close() noexcept {
  if (file_ >= 0) ::close(file_);
  file_ = -1;
}

bool Socket::send(const Message& message, Deadline deadline) noexcept {
  if (file_ < 0) return false;
  try {
    const auto size = static_cast<std::uint32_t>(message.text.size());
    std::string bytes(sizeof size + 1, '\0');
    std::memcpy(bytes.data(), &size, sizeof size);
    bytes[sizeof size] = message.kind;
    bytes += message.text;
    std::size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t sent = ::send(file_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent > 0) {
        done += static_cast<std::size_t>(sent);
      } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
        if (!ready(file_, POLLOUT, deadline)) return false;
      } else if (errno != EINTR) {
        return false;
      }
    }
    return true;
  } catch (...) {  // out of memory
    return false;
  }
}

Socket::Received Socket::receive(Message& message, Deadline deadline) {
  constexpr std::size_t kHeader = sizeof(std::uint32_t) + 1;
  while (true) {
    if (kept_.size() >= kHeader) {
      std::uint32_t size = 0;
      std::memcpy(&size, kept_.data(), sizeof size);
      if (size > kMostBytes) return Received::gone;  // no rank of ours
      if (kept_.size() >= kHeader + size) {
        message.kind = kept_[sizeof size];
        message.text = kept_.substr(kHeader, size);
        kept_.erase(0, kHeader + size);
        return Received::message;
      }
    }
    if (file_ < 0) return Received::gone;
    char buffer[65536];
    const ssize_t got = recv(file_, buffer, sizeof buffer, MSG_DONTWAIT);
    if (got > 0) {
      kept_.append(buffer, static_cast<std::size_t>(got));
    } else if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      if (!ready(file_, POLLIN, deadline)) return Received::late;
    } else if (got == 0 || errno != EINTR) {
      return Received::gone;
    }
  }
}

Listener::Listener(const std::string& address, int port) {
  std::string why;
  const Addresses list = resolve(address, port, true, why);
  for (const addrinfo* entry = list.get(); entry != nullptr && !socket_; entry = entry->ai_next) {
    Socket socket(::socket(entry->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const int on = 1;
    if (socket) setsockopt(socket.file(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (socket && bind(socket.file(), entry->ai_addr, entry->ai_addrlen) == 0 && listen(socket.file(), 1024) == 0)
      socket_ = std::move(socket);
    else
      why = std::strerror(errno);
  }
  if (!socket_)
    throw std::runtime_error("rank 0 cannot listen at " + (address.empty() ? std::string("any address") : address) +
                             ", port " + std::to_string(port) + ": " + why);
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  getsockname(socket_.file(), reinterpret_cast<sockaddr*>(&bound), &size);
  port_ = ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                            : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
}

std::optional<Socket> Listener::accept(Deadline deadline) {
  while (true) {
    Socket socket(accept4(socket_.file(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket) {
      const int on = 1;
      setsockopt(socket.file(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      return socket;
    }
    if (!ready(socket_.file(), POLLIN, deadline)) return std::nullopt;
  }
}

std::optional<Socket> connect_to(const std::vector<std::string>& addresses, int port, Deadline deadline,
                                 std::string& why) {
  why = "there is no address to try";
  while (true) {
    for (const std::string& name : addresses) {
      const Addresses list = resolve(name, port, false, why);
      for (const addrinfo* entry = list.get(); entry != nullptr; entry = entry->ai_next)
        if (Socket socket = try_connect(*entry, deadline, why)) return socket;
    }
    if (Clock::now() >= deadline) return std::nullopt;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

std::vector<std::string> host_addresses() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return {"127.0.0.1"};
  std::vector<std::string> addresses, loopback;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || (entry->ifa_flags & IFF_UP) == 0) continue;
    const int family = entry->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    char text[NI_MAXHOST];
    const socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    if (getnameinfo(entry->ifa_addr, size, text, sizeof text, nullptr, 0, NI_NUMERICHOST) != 0) continue;
    ((entry->ifa_flags & IFF_LOOPBACK) != 0 ? loopback : addresses).emplace_back(text);
  }
  freeifaddrs(list);
  addresses.insert(addresses.end(), loopback.begin(), loopback.end());
  return addresses;
}

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "unknown host";
}

}  // namespace sinkscope
