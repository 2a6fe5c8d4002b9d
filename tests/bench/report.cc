#include "tests/bench/report.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace engram::bench {
namespace {

using Json = nlohmann::ordered_json;

std::string CpuModel() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(": ", 1));
    if (parts.size() == 2 && absl::StartsWith(parts[0], "model name")) return parts[1];
  }
  return "unknown";
}

// The type of the mount that `dir` lies in: the longest mount point that is a prefix of it.
std::string FileSystem(const std::string& dir) {
  std::ifstream file("/proc/self/mounts");
  std::string type = "unknown";
  size_t longest = 0;
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> fields = absl::StrSplit(line, ' ');
    if (fields.size() < 3) continue;
    const std::string& point = fields[1];
    const std::string prefix = point == "/" ? point : point + "/";
    if ((dir == point || absl::StartsWith(dir, prefix)) && point.size() >= longest) {
      longest = point.size();
      type = fields[2];
    }
  }
  return type;
}

std::string Human(double value, const std::string& unit) {
  if (unit == "of accesses") return absl::StrFormat("%.4f ", value);
  if (!absl::EndsWith(unit, "/s")) return absl::StrFormat("%.1f ", value);  // a time
  if (value >= 1e9) return absl::StrFormat("%.2f G", value / 1e9);
  if (value >= 1e6) return absl::StrFormat("%.2f M", value / 1e6);
  if (value >= 1e3) return absl::StrFormat("%.1f k", value / 1e3);
  return absl::StrFormat("%.2f ", value);
}

std::string HumanDetail(const Detail& detail) {
  if (const bool* flag = std::get_if<bool>(&detail)) return *flag ? "true" : "false";
  if (const int64_t* whole = std::get_if<int64_t>(&detail)) return absl::StrCat(*whole);
  if (const double* number = std::get_if<double>(&detail)) return absl::StrFormat("%.3g", *number);
  return std::get<std::string>(detail);
}

}  // namespace

Machine DescribeMachine(const std::string& dir) {
  Machine machine;
  machine.cpu = CpuModel();
  machine.cores = static_cast<int64_t>(std::thread::hardware_concurrency());
  utsname names{};
  if (::uname(&names) == 0) machine.kernel = names.release;
  machine.file_system = FileSystem(dir);
  machine.memory_bytes = static_cast<int64_t>(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE);
  machine.date = absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone());
  double loads[1] = {0};
  if (::getloadavg(loads, 1) == 1) machine.load_average = loads[0];
  return machine;
}

Reporter::Reporter(bool json, Machine machine) : json_(json), machine_(std::move(machine)) {
  if (json_) return;
  std::cout << absl::StreamFormat(
                   "%s, %d cores, %.0f GiB, Linux %s, %s, %s, load %.2f\n", machine_.cpu,
                   machine_.cores, static_cast<double>(machine_.memory_bytes) / (1 << 30),
                   machine_.kernel, machine_.file_system, machine_.date, machine_.load_average)
            << std::flush;
}

void Reporter::Print(const Result& result) {
  const double ratio = result.value / result.baseline;
  if (!json_) {
    std::cout << absl::StreamFormat("%-28s %12s%s  baseline %12s%s  ratio %5.2f ", result.name,
                                    Human(result.value, result.unit), result.unit,
                                    Human(result.baseline, result.unit), result.unit, ratio);
    for (const auto& [key, detail] : result.details) {
      std::cout << " " << key << "=" << HumanDetail(detail);
    }
    std::cout << std::endl;
    return;
  }
  Json line = {{"name", result.name},
               {"value", result.value},
               {"unit", result.unit},
               {"baseline", result.baseline},
               {"ratio", ratio}};
  for (const auto& [key, detail] : result.details) {
    std::visit([&line, &name = key](const auto& value) { line[name] = value; }, detail);
  }
  line["machine"] = {{"cpu", machine_.cpu},
                     {"cores", machine_.cores},
                     {"memory_bytes", machine_.memory_bytes},
                     {"kernel", machine_.kernel},
                     {"file_system", machine_.file_system},
                     {"date", machine_.date},
                     {"load_average", machine_.load_average}};
  std::cout << line.dump() << std::endl;
}

void Reporter::Note(const std::string& text) { std::cerr << "engram_bench: " << text << "\n"; }

}  // namespace engram::bench
