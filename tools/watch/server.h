// `sinkscope monitor --serve`: runs as a live page, over HTTP.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace sinkscope {

struct ServeOptions {
  std::string address = "127.0.0.1";  // or a name, or an IPv6 address
  int port = 0;                       // 0: any that is free
};

/// The HTTP library's version, or "" in a build without it.
std::string http_library();

/// Throws std::runtime_error that says what is missing in a build without the HTTP library.
void require_http_library();

/// Whether a Host header names this machine or the address, a loopback one, with or without a port. A page of another
/// site whose name was made to lead here (DNS rebinding) carries its own name in it.
bool is_local_host_header(std::string_view host, std::string_view address = "127.0.0.1");

/// Serves the page of the runs until `stop` is true; `tell` gets the page's address once it can be opened. GET and HEAD
/// of / and /data; what else is asked for is refused. On a loopback address a request whose Host is not this machine is
/// refused as well. Throws std::runtime_error for what is no run directory, for more runs than a page has, where the
/// address cannot be listened on, and as live_page_html does.
void serve_runs(const std::vector<std::string>& directories, const ServeOptions& options, const std::atomic<bool>& stop,
                const std::function<void(const std::string& url)>& tell);

}  // namespace sinkscope
