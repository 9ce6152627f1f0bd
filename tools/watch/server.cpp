#include "tools/watch/server.h"

#include <algorithm>
#include <cctype>
#include <stdexcept>
#include <string>

#include "engine/comm/socket.h"

#ifdef SINKSCOPE_HTTPLIB
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "tools/report/assets.h"
#include "tools/report/report.h"
#include "tools/watch/bounded_server.h"
#include "tools/watch/live_state.h"
#include "tools/watch/live_view.h"
#endif

namespace sinkscope {

std::string http_library() {
#ifdef SINKSCOPE_HTTPLIB
  return CPPHTTPLIB_VERSION;
#else
  return {};
#endif
}

void require_http_library() {
  if (http_library().empty())
    throw std::runtime_error(
        "--serve: this build has no HTTP server; install cpp-httplib (Debian: libcpp-httplib-dev), configure and build "
        "again");
}

bool is_local_host_header(std::string_view host, std::string_view address) {
  const std::size_t name_end = host.starts_with('[') ? host.find(']') + 1 : std::min(host.find(':'), host.size());
  const std::string_view port = host.substr(name_end);
  if (!port.empty() && port.front() != ':') return false;
  if (port.find_first_not_of("0123456789", 1) != std::string_view::npos) return false;
  std::string name(host.substr(0, name_end));
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return name == "localhost" || name == "127.0.0.1" || name == "[::1]" || (name == address && is_loopback(name));
}

#ifdef SINKSCOPE_HTTPLIB
namespace {

constexpr std::chrono::milliseconds kInterval{1000};  // between two looks at the logs
constexpr std::chrono::milliseconds kNap{50};         // between two looks at `stop`
constexpr std::chrono::milliseconds kBreath{2};       // between two looks that have more to read: others get the lock
constexpr std::chrono::milliseconds kLongBreath{100};  // while a browser of this machine needs its cores to open a page
constexpr std::int64_t kLookBytes = std::int64_t{16} << 20;
constexpr std::size_t kConnections = 16;  // answered at a time; more wait

void answer(httplib::Response& response, int status, const std::string& text) {
  response.status = status;
  response.set_content(text + "\n", "text/plain; charset=utf-8");
}

/// Limits, and the rules that hold for every request.
void set_rules(httplib::Server& server, const std::string& address) {
  server.new_task_queue = [] { return new httplib::ThreadPool(kConnections); };
  server.set_payload_max_length(0);
  server.set_tcp_nodelay(true);
  // Without SO_REUSEPORT, which the library would set: a second server on a port is an error.
  server.set_socket_options([](socket_t socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  server.set_default_headers({{"Cache-Control", "no-store"},
                              {"X-Content-Type-Options", "nosniff"},
                              {"Referrer-Policy", "no-referrer"},
                              {"Cross-Origin-Resource-Policy", "same-origin"},
                              {"Cross-Origin-Opener-Policy", "same-origin"},
                              {"X-Frame-Options", "DENY"}});
  server.set_pre_routing_handler([address, local_only = is_loopback(address)](const httplib::Request& request,
                                                                              httplib::Response& response) {
    using Result = httplib::Server::HandlerResponse;
    if (request.method != "GET" && request.method != "HEAD") {
      response.set_header("Allow", "GET, HEAD");
      answer(response, 405, "only GET and HEAD are answered");
      return Result::Handled;
    }
    const bool local =
        request.get_header_value_count("Host") == 1 && is_local_host_header(request.get_header_value("Host"), address);
    if (local_only && !local) {
      answer(response, 403, "this server answers only to localhost, 127.0.0.1 and [::1]");
      return Result::Handled;
    }
    return Result::Unhandled;
  });
  server.set_exception_handler([](const httplib::Request&, httplib::Response& response, std::exception_ptr error) {
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& known) {
      answer(response, 500, known.what());
    } catch (...) {
      answer(response, 500, "unknown error");
    }
  });
  server.set_error_handler([](const httplib::Request&, httplib::Response& response) {
    if (response.body.empty()) answer(response, response.status, "status " + std::to_string(response.status));
  });
}

void set_pages(httplib::Server& server, LiveState& state) {
  server.Get("/", [&state](const httplib::Request&, httplib::Response& response) {
    response.set_content(state.page(), "text/html; charset=utf-8");
  });
  server.Get("/data", [&state](const httplib::Request& request, httplib::Response& response) {
    const auto snapshot = state.snapshot();
    response.set_header("ETag", snapshot->tag);
    if (request.get_header_value("If-None-Match") == snapshot->tag)
      response.status = 304;
    else
      response.set_content(snapshot->beside(request.get_param_value("shown")), "application/json");
  });
  server.Get("/favicon.ico", [](const httplib::Request&, httplib::Response& response) { response.status = 204; });
}

}  // namespace

void serve_runs(const std::vector<std::string>& directories, const ServeOptions& options, const std::atomic<bool>& stop,
                const std::function<void(const std::string&)>& tell) {
  if (directories.size() > kMaxPageRuns)
    throw std::runtime_error("--serve: a page shows at most " + std::to_string(kMaxPageRuns) + " runs, not " +
                             std::to_string(directories.size()));
  for (const std::string& directory : directories) require_run_directory(directory, false);
  load_chart_library();
  LiveState state(directories);

  BoundedServer server{RequestLimits{}};
  set_rules(server, options.address);
  set_pages(server, state);
  errno = 0;
  int port = options.port;
  const bool bound = port == 0 ? (port = server.bind_to_any_port(options.address)) > 0
                               : server.bind_to_port(options.address, port);
  if (!bound)
    throw std::runtime_error("--bind " + options.address + " --port " + std::to_string(options.port) +
                             ": cannot listen there" + (errno != 0 ? std::string(": ") + std::strerror(errno) : ""));
  std::atomic<bool> ended = false;
  std::thread listener([&] {
    server.listen_after_bind();
    ended.store(true);
  });
  while (!server.is_running() && !ended.load()) std::this_thread::sleep_for(kBreath);
  const bool bracketed = options.address.find(':') != std::string::npos;
  tell("http://" + (bracketed ? "[" + options.address + "]" : options.address) + ":" + std::to_string(port) + "/");
  std::exception_ptr error;
  try {
    while (!stop.load() && !ended.load()) {
      const auto next = std::chrono::steady_clock::now() + kInterval;
      if (!state.look(kLookBytes)) {
        std::this_thread::sleep_for(state.page_opens() ? kLongBreath : kBreath);
        continue;
      }
      while (!stop.load() && !ended.load() && std::chrono::steady_clock::now() < next)
        std::this_thread::sleep_for(kNap);
    }
  } catch (...) {
    error = std::current_exception();
  }
  const bool failed = ended.load();
  server.stop();
  listener.join();
  if (error) std::rethrow_exception(error);
  if (failed) throw std::runtime_error("--serve: the server ended: it cannot take connections any more");
}

#else

void serve_runs(const std::vector<std::string>&, const ServeOptions&, const std::atomic<bool>&,
                const std::function<void(const std::string&)>&) {
  require_http_library();
}

#endif

}  // namespace sinkscope
