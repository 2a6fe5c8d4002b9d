// Which sanitizer a test is built with: g++ and clang say it in different ways.
#ifndef ENGRAM_TESTS_SANITIZER_H_
#define ENGRAM_TESTS_SANITIZER_H_

namespace engram {

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kAddressSanitizer = true;
#elif defined(__has_feature)
inline constexpr bool kAddressSanitizer = __has_feature(address_sanitizer);
#else
inline constexpr bool kAddressSanitizer = false;
#endif

#if defined(__SANITIZE_THREAD__)
inline constexpr bool kThreadSanitizer = true;
#elif defined(__has_feature)
inline constexpr bool kThreadSanitizer = __has_feature(thread_sanitizer);
#else
inline constexpr bool kThreadSanitizer = false;
#endif

}  // namespace engram

#endif  // ENGRAM_TESTS_SANITIZER_H_
